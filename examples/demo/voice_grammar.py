"""Sentence patterns and slot values of the demo corpus, in eight languages.

All text in this file was written for this project and is under the Apache-2.0
licence, as the rest of the project. People and artists are invented.

A pattern has ``{slot_type}`` in place of a value. All values of one slot type have the
same grammatical role (``device_type`` is always a definite direct object, ``date``
always an adverbial, and so on), so they do not depend on the pattern.

A value table has one concept per line and one column per language, in the order of
``LANGUAGES``. ``=`` repeats the English column. If only a part of a cell is the slot
value, that part is in angle brackets: ``in the <kitchen>`` puts "in the" before the
slot and "kitchen" inside it.

For a pattern without slots, ``split`` names the only MASSIVE partition that uses it.
"""

LANGUAGES: tuple[str, ...] = ("en", "de", "es", "ru", "cy", "sw", "tr", "id")

LOCALES: dict[str, str] = {
    "en": "en-US",
    "de": "de-DE",
    "es": "es-ES",
    "ru": "ru-RU",
    "cy": "cy-GB",
    "sw": "sw-KE",
    "tr": "tr-TR",
    "id": "id-ID",
}

# Opening words that may precede any sentence; they never belong to a slot.
OPENERS: str = """
hey       | hey            | oye       | эй         | hei                | haya      | hey        | hei
ok        | ok             | vale      | окей       | iawn               | sawa      | tamam      | oke
hello     | hallo          | hola      | привет     | helo               | habari    | merhaba    | halo
please    | bitte          | por favor | пожалуйста | os gwelwch yn dda  | tafadhali | lütfen     | tolong
excuse me | entschuldigung | perdona   | извини     | esgusodwch fi      | samahani  | affedersin | permisi
assistant | assistent      | asistente | ассистент  | gynorthwyydd       | msaidizi  | asistan    | asisten
listen    | hör zu         | escucha   | слушай     | gwrandewch         | sikiliza  | dinle      | dengar
"""  # noqa: E501

VALUES: dict[str, str] = {
    "date": """
today | heute | hoy | сегодня | heddiw | leo | bugün | hari ini
tomorrow | morgen | mañana | завтра | yfory | kesho | yarın | besok
the day after tomorrow | übermorgen | pasado mañana | послезавтра | drennydd | kesho kutwa | öbür gün | lusa
on <monday> | am <montag> | el <lunes> | в <понедельник> | ddydd llun | jumatatu | <pazartesi> günü | hari senin
on <tuesday> | am <dienstag> | el <martes> | во <вторник> | ddydd mawrth | jumanne | <salı> günü | hari selasa
on <wednesday> | am <mittwoch> | el <miércoles> | в <среду> | ddydd mercher | jumatano | <çarşamba> günü | hari rabu
on <thursday> | am <donnerstag> | el <jueves> | в <четверг> | ddydd iau | alhamisi | <perşembe> günü | hari kamis
on <friday> | am <freitag> | el <viernes> | в <пятницу> | ddydd gwener | ijumaa | <cuma> günü | hari jumat
on <saturday> | am <samstag> | el <sábado> | в <субботу> | ddydd sadwrn | jumamosi | <cumartesi> günü | hari sabtu
on <sunday> | am <sonntag> | el <domingo> | в <воскресенье> | ddydd sul | jumapili | <pazar> günü | hari minggu
next week | nächste woche | la <próxima semana> | на <следующей неделе> | yr <wythnos nesaf> | wiki ijayo | gelecek hafta | minggu depan
this week | diese woche | esta semana | на <этой неделе> | yr <wythnos hon> | wiki hii | bu hafta | minggu ini
this weekend | dieses wochenende | este fin de semana | в <эти выходные> | y <penwythnos hwn> | wikendi hii | bu hafta sonu | akhir pekan ini
next month | nächsten monat | el <próximo mes> | в <следующем месяце> | y <mis nesaf> | mwezi ujao | gelecek ay | bulan depan
this month | diesen monat | este mes | в <этом месяце> | y <mis hwn> | mwezi huu | bu ay | bulan ini
""",  # noqa: E501
    "time": """
at <five am> | um <fünf uhr morgens> | a las <cinco de la mañana> | в <пять утра> | am <bump y bore> | saa kumi na moja | sabah beşte | jam <lima pagi>
at <six am> | um <sechs uhr morgens> | a las <seis de la mañana> | в <шесть утра> | am <chwech y bore> | saa kumi na mbili | sabah altıda | jam <enam pagi>
at <seven am> | um <sieben uhr morgens> | a las <siete de la mañana> | в <семь утра> | am <saith y bore> | saa moja asubuhi | sabah yedide | jam <tujuh pagi>
at <eight am> | um <acht uhr morgens> | a las <ocho de la mañana> | в <восемь утра> | am <wyth y bore> | saa mbili asubuhi | sabah sekizde | jam <delapan pagi>
at <nine am> | um <neun uhr morgens> | a las <nueve de la mañana> | в <девять утра> | am <naw y bore> | saa tatu asubuhi | sabah dokuzda | jam <sembilan pagi>
at <ten am> | um <zehn uhr morgens> | a las <diez de la mañana> | в <десять утра> | am <ddeg y bore> | saa nne asubuhi | sabah onda | jam <sepuluh pagi>
at <noon> | um <zwölf uhr mittags> | al <mediodía> | в <полдень> | am <hanner dydd> | saa sita mchana | öğlen on ikide | jam <dua belas siang>
at <one pm> | um <ein uhr nachmittags> | a la <una de la tarde> | в <час дня> | am <un y prynhawn> | saa saba mchana | öğleden sonra birde | jam <satu siang>
at <two pm> | um <zwei uhr nachmittags> | a las <dos de la tarde> | в <два часа дня> | am <ddau y prynhawn> | saa nane mchana | öğleden sonra ikide | jam <dua siang>
at <three pm> | um <drei uhr nachmittags> | a las <tres de la tarde> | в <три часа дня> | am <dri y prynhawn> | saa tisa mchana | öğleden sonra üçte | jam <tiga sore>
at <four pm> | um <vier uhr nachmittags> | a las <cuatro de la tarde> | в <четыре часа дня> | am <bedwar y prynhawn> | saa kumi jioni | öğleden sonra dörtte | jam <empat sore>
at <seven pm> | um <sieben uhr abends> | a las <siete de la tarde> | в <семь вечера> | am <saith yr hwyr> | saa moja jioni | akşam yedide | jam <tujuh malam>
at <eight pm> | um <acht uhr abends> | a las <ocho de la noche> | в <восемь вечера> | am <wyth yr hwyr> | saa mbili usiku | akşam sekizde | jam <delapan malam>
at <nine pm> | um <neun uhr abends> | a las <nueve de la noche> | в <девять вечера> | am <naw yr hwyr> | saa tatu usiku | akşam dokuzda | jam <sembilan malam>
at <ten pm> | um <zehn uhr abends> | a las <diez de la noche> | в <десять вечера> | am <ddeg yr hwyr> | saa nne usiku | gece onda | jam <sepuluh malam>
at <midnight> | um <mitternacht> | a <medianoche> | в <полночь> | am <hanner nos> | saa sita usiku | gece yarısı | pada <tengah malam>
""",  # noqa: E501
    "timeofday": """
in the <morning> | am <morgen> | por la <mañana> | утром | yn y <bore> | asubuhi | sabahleyin | pada <pagi hari>
in the <afternoon> | am <nachmittag> | por la <tarde> | днем | yn y <prynhawn> | alasiri | öğleden sonra | pada <siang hari>
in the <evening> | am <abend> | al <atardecer> | вечером | gyda'r <nos> | jioni | akşamleyin | pada <sore hari>
at <night> | in der <nacht> | por la <noche> | ночью | yn y <nos> | usiku | geceleyin | pada <malam hari>
at <sunrise> | bei <sonnenaufgang> | al <amanecer> | на <рассвете> | ar <doriad gwawr> | wakati wa <macheo> | gün doğarken | saat <matahari terbit>
at <sunset> | bei <sonnenuntergang> | a la <puesta del sol> | на <закате> | ar <fachlud haul> | wakati wa <machweo> | gün batarken | saat <matahari terbenam>
before <breakfast> | vor dem <frühstück> | antes del <desayuno> | перед <завтраком> | cyn <brecwast> | kabla ya <kifungua kinywa> | <kahvaltıdan> önce | sebelum <sarapan>
after <lunch> | nach dem <mittagessen> | después del <almuerzo> | после <обеда> | ar ôl <cinio> | baada ya <chakula cha mchana> | <öğle yemeğinden> sonra | setelah <makan siang>
after <dinner> | nach dem <abendessen> | después de la <cena> | после <ужина> | ar ôl <swper> | baada ya <chakula cha jioni> | <akşam yemeğinden> sonra | setelah <makan malam>
before <work> | vor der <arbeit> | antes del <trabajo> | перед <работой> | cyn y <gwaith> | kabla ya <kazi> | <işten> önce | sebelum <kerja>
after <work> | nach der <arbeit> | después del <trabajo> | после <работы> | ar ôl y <gwaith> | baada ya <kazi> | <işten> sonra | setelah <kerja>
after <school> | nach der <schule> | después de la <escuela> | после <школы> | ar ôl yr <ysgol> | baada ya <shule> | <okuldan> sonra | setelah <sekolah>
""",  # noqa: E501
    "place_name": """
london | = | londres | лондон | llundain | = | londra | =
paris | = | parís | париж | = | = | = | =
berlin | = | berlín | берлин | = | = | = | =
rome | rom | roma | рим | rhufain | roma | roma | roma
madrid | = | = | мадрид | = | = | = | =
moscow | moskau | moscú | москва | = | = | moskova | moskwa
nairobi | = | = | найроби | = | = | = | =
mombasa | = | = | момбаса | = | = | = | =
istanbul | = | estambul | стамбул | = | = | = | =
jakarta | = | yakarta | джакарта | = | = | cakarta | =
cardiff | = | = | кардифф | caerdydd | = | = | =
dublin | = | dublín | дублин | dulyn | = | = | =
oslo | = | = | осло | = | = | = | =
lima | = | = | лима | = | = | = | =
tokyo | tokio | tokio | токио | = | = | = | =
vienna | wien | viena | вена | fienna | = | viyana | wina
cairo | kairo | el cairo | каир | = | kairo | kahire | kairo
lisbon | lissabon | lisboa | лиссабон | = | = | lizbon | lisabon
warsaw | warschau | varsovia | варшава | = | = | varşova | warsawa
manila | = | = | манила | = | = | = | =
""",
    "person": """
anna | = | = | анне | = | = | anna'ya | =
marta | = | = | марте | = | = | marta'ya | =
leo | = | = | лео | = | = | leo'ya | =
lena | = | = | лене | = | = | lena'ya | =
tomas | = | = | томасу | = | = | tomas'a | =
nina | = | = | нине | = | = | nina'ya | =
omar | = | = | омару | = | = | omar'a | =
sara | = | = | саре | = | = | sara'ya | =
david | = | = | давиду | = | = | david'e | =
amina | = | = | амине | = | = | amina'ya | =
petra | = | = | петре | = | = | petra'ya | =
kofi | = | = | кофи | = | = | kofi'ye | =
ines | = | = | инес | = | = | ines'e | =
emil | = | = | эмилю | = | = | emil'e | =
rosa | = | = | розе | = | = | rosa'ya | =
viktor | = | = | виктору | = | = | viktor'a | =
julia | = | = | юлии | = | = | julia'ya | =
samuel | = | = | самуэлю | = | = | samuel'e | =
""",
    "relation": """
my <mother> | meine <mutter> | mi <madre> | моей <маме> | fy <mam> | <mama> yangu | anneme | <ibu> saya
my <father> | meinen <vater> | mi <padre> | моему <отцу> | fy <nhad> | <baba> yangu | babama | <ayah> saya
my <brother> | meinen <bruder> | mi <hermano> | моему <брату> | fy <mrawd> | <kaka> yangu | erkek kardeşime | <saudara laki-laki> saya
my <sister> | meine <schwester> | mi <hermana> | моей <сестре> | fy <chwaer> | <dada> yangu | kız kardeşime | <saudara perempuan> saya
my <grandmother> | meine <oma> | mi <abuela> | моей <бабушке> | fy <nain> | <bibi> yangu | büyükanneme | <nenek> saya
my <grandfather> | meinen <opa> | mi <abuelo> | моему <дедушке> | fy <nhaid> | <babu> yangu | dedeme | <kakek> saya
my <aunt> | meine <tante> | mi <tía> | моей <тете> | fy <modryb> | <shangazi> yangu | teyzeme | <bibi> saya
my <uncle> | meinen <onkel> | mi <tío> | моему <дяде> | fy <ewythr> | <mjomba> wangu | amcama | <paman> saya
my <cousin> | meinen <cousin> | mi <primo> | моему <кузену> | fy <nghefnder> | <binamu> yangu | kuzenime | <sepupu> saya
my <wife> | meine <frau> | mi <esposa> | моей <жене> | fy <ngwraig> | <mke> wangu | karıma | <istri> saya
my <husband> | meinen <mann> | mi <marido> | моему <мужу> | fy <ngŵr> | <mume> wangu | kocama | <suami> saya
my <boss> | meinen <chef> | mi <jefe> | моему <начальнику> | fy <mhennaeth> | <bosi> wangu | patronuma | <bos> saya
my <friend> | meinen <freund> | mi <amigo> | моему <другу> | fy <ffrind> | <rafiki> yangu | arkadaşıma | <teman> saya
my <neighbor> | meinen <nachbarn> | mi <vecino> | моему <соседу> | fy <nghymydog> | <jirani> yangu | komşuma | <tetangga> saya
my <teacher> | meinen <lehrer> | mi <profesor> | моему <учителю> | fy <athro> | <mwalimu> wangu | öğretmenime | <guru> saya
my <daughter> | meine <tochter> | mi <hija> | моей <дочери> | fy <merch> | <binti> yangu | kızıma | <anak perempuan> saya
my <son> | meinen <sohn> | mi <hijo> | моему <сыну> | fy <mab> | <mtoto> wangu | oğluma | <anak laki-laki> saya
""",  # noqa: E501
    "event_name": """
the <meeting> | das <treffen> | la <reunión> | совещание | y <cyfarfod> | mkutano | toplantıyı | rapat
the <concert> | das <konzert> | el <concierto> | концерт | y <cyngerdd> | tamasha | konseri | konser
the <exam> | die <prüfung> | el <examen> | экзамен | yr <arholiad> | mtihani | sınavı | ujian
the <birthday party> | die <geburtstagsfeier> | la <fiesta de cumpleaños> | день рождения | y <parti pen-blwydd> | sherehe ya kuzaliwa | doğum günü partisini | pesta ulang tahun
the <party> | die <party> | la <fiesta> | вечеринку | y <parti> | sherehe | partiyi | pesta
the <lunch> | das <mittagessen> | el <almuerzo> | обед | y <cinio> | chakula cha mchana | öğle yemeğini | makan siang
the <dinner> | das <abendessen> | la <cena> | ужин | y <swper> | chakula cha jioni | akşam yemeğini | makan malam
the <doctor appointment> | den <arzttermin> | la <cita médica> | прием у врача | yr <apwyntiad meddyg> | miadi ya daktari | doktor randevusunu | janji dokter
the <wedding> | die <hochzeit> | la <boda> | свадьбу | y <briodas> | harusi | düğünü | pernikahan
the <interview> | das <vorstellungsgespräch> | la <entrevista> | собеседование | y <cyfweliad> | mahojiano | mülakatı | wawancara
the <yoga class> | den <yogakurs> | la <clase de yoga> | занятие йогой | y <dosbarth ioga> | darasa la yoga | yoga dersini | kelas yoga
the <football match> | das <fußballspiel> | el <partido de fútbol> | футбольный матч | y <gêm bêl-droed> | mechi ya mpira | futbol maçını | pertandingan bola
the <picnic> | das <picknick> | el <picnic> | пикник | y <picnic> | pikiniki | pikniği | piknik
the <video call> | den <videoanruf> | la <videollamada> | видеозвонок | yr <alwad fideo> | simu ya video | görüntülü görüşmeyi | panggilan video
the <workshop> | den <workshop> | el <taller> | семинар | y <gweithdy> | warsha | çalıştayı | lokakarya
the <exhibition> | die <ausstellung> | la <exposición> | выставку | yr <arddangosfa> | maonyesho | sergiyi | pameran
the <training> | das <training> | el <entrenamiento> | тренировку | yr <hyfforddiant> | mazoezi | antrenmanı | latihan
the <lesson> | den <unterricht> | la <lección> | урок | y <wers> | somo | dersi | pelajaran
""",  # noqa: E501
    "list_name": """
shopping | einkaufsliste | compras | покупок | siopa | ununuzi | alışveriş | belanja
task | aufgabenliste | tareas | задач | o <dasgau> | kazi | görev | tugas
wish | wunschliste | deseos | желаний | o <ddymuniadau> | matakwa | dilek | keinginan
guest | gästeliste | invitados | гостей | o <westeion> | wageni | misafir | tamu
movie | filmliste | películas | фильмов | o <ffilmiau> | filamu | film | film
book | bücherliste | libros | книг | o <lyfrau> | vitabu | kitap | buku
gift | geschenkeliste | regalos | подарков | o <anrhegion> | zawadi | hediye | hadiah
song | liederliste | canciones | песен | o <ganeuon> | nyimbo | şarkı | lagu
recipe | rezeptliste | recetas | рецептов | o <ryseitiau> | mapishi | tarif | resep
idea | ideenliste | ideas | идей | o <syniadau> | mawazo | fikir | ide
goal | zielliste | metas | целей | o <nodau> | malengo | hedef | target
medicine | medikamentenliste | medicinas | лекарств | o <feddyginiaethau> | dawa | ilaç | obat
travel | reiseliste | viajes | поездок | teithio | safari | seyahat | perjalanan
""",
    "food_type": """
pizza | pizza | pizza | пиццу | pizza | piza | pizza | pizza
soup | suppe | sopa | суп | cawl | supu | çorba | sup
rice | reis | arroz | рис | reis | wali | pilav | nasi
bread | brot | pan | хлеб | bara | mkate | ekmek | roti
fish | fisch | pescado | рыбу | pysgod | samaki | balık | ikan
chicken | hähnchen | pollo | курицу | cyw iâr | kuku | tavuk | ayam
pasta | nudeln | pasta | макароны | pasta | tambi | makarna | pasta
salad | salat | ensalada | салат | salad | saladi | salata | salad
cheese | käse | queso | сыр | caws | jibini | peynir | keju
pancakes | pfannkuchen | panqueques | блины | crempogau | pankeki | krep | panekuk
eggs | eier | huevos | яйца | wyau | mayai | yumurta | telur
potatoes | kartoffeln | patatas | картошку | tatws | viazi | patates | kentang
beans | bohnen | alubias | фасоль | ffa | maharagwe | fasulye | kacang
meat | fleisch | carne | мясо | cig | nyama | et | daging
chocolate cake | schokoladenkuchen | tarta de chocolate | шоколадный торт | cacen siocled | keki ya chokoleti | çikolatalı pasta | kue cokelat
ice cream | eis | helado | мороженое | hufen iâ | aiskrimu | dondurma | es krim
vegetables | gemüse | verduras | овощи | llysiau | mboga | sebze | sayur
sandwiches | sandwiches | bocadillos | бутерброды | brechdanau | sandwichi | sandviç | roti lapis
porridge | haferbrei | avena | кашу | uwd | uji | yulaf lapası | bubur
sausages | würstchen | salchichas | сосиски | selsig | soseji | sosis | sosis
""",  # noqa: E501
    "device_type": """
the <lamp> | die <lampe> | la <lámpara> | лампу | y <lamp> | taa | lambayı | lampu
the <television> | den <fernseher> | el <televisor> | телевизор | y <teledu> | runinga | televizyonu | televisi
the <radio> | das <radio> | la <radio> | радио | y <radio> | redio | radyoyu | radio
the <heater> | die <heizung> | la <calefacción> | обогреватель | y <gwresogydd> | kipasha joto | ısıtıcıyı | pemanas
the <fan> | den <ventilator> | el <ventilador> | вентилятор | y <ffan> | feni | vantilatörü | kipas angin
the <vacuum cleaner> | den <staubsauger> | la <aspiradora> | пылесос | y <sugnwr llwch> | kifyonza vumbi | elektrikli süpürgeyi | penyedot debu
the <coffee machine> | die <kaffeemaschine> | la <cafetera> | кофемашину | y <peiriant coffi> | mashine ya kahawa | kahve makinesini | mesin kopi
the <washing machine> | die <waschmaschine> | la <lavadora> | стиральную машину | y <peiriant golchi> | mashine ya kufulia | çamaşır makinesini | mesin cuci
the <dishwasher> | die <spülmaschine> | el <lavavajillas> | посудомоечную машину | y <peiriant golchi llestri> | mashine ya vyombo | bulaşık makinesini | mesin pencuci piring
the <oven> | den <backofen> | el <horno> | духовку | y <ffwrn> | oveni | fırını | oven
the <air conditioner> | die <klimaanlage> | el <aire acondicionado> | кондиционер | y <system aerdymheru> | kiyoyozi | klimayı | pendingin ruangan
the <speaker> | den <lautsprecher> | el <altavoz> | колонку | yr <uchelseinydd> | spika | hoparlörü | pengeras suara
the <computer> | den <computer> | el <ordenador> | компьютер | y <cyfrifiadur> | kompyuta | bilgisayarı | komputer
the <alarm system> | die <alarmanlage> | el <sistema de alarma> | сигнализацию | y <system larwm> | kengele ya usalama | alarm sistemini | sistem alarm
the <printer> | den <drucker> | la <impresora> | принтер | yr <argraffydd> | printa | yazıcıyı | printer
the <kettle> | den <wasserkocher> | el <hervidor> | чайник | y <tegell> | birika | su ısıtıcısını | ketel
the <microwave> | die <mikrowelle> | el <microondas> | микроволновку | y <meicrodon> | maikrowevu | mikrodalgayı | microwave
the <camera> | die <kamera> | la <cámara> | камеру | y <camera> | kamera | kamerayı | kamera
""",  # noqa: E501
    "house_place": """
in the <kitchen> | in der <küche> | en la <cocina> | на <кухне> | yn y <gegin> | jikoni | mutfaktaki | di <dapur>
in the <bedroom> | im <schlafzimmer> | en el <dormitorio> | в <спальне> | yn yr <ystafell wely> | kwenye <chumba cha kulala> | yatak odasındaki | di <kamar tidur>
in the <living room> | im <wohnzimmer> | en el <salón> | в <гостиной> | yn y <lolfa> | sebuleni | oturma odasındaki | di <ruang tamu>
in the <bathroom> | im <badezimmer> | en el <baño> | в <ванной> | yn yr <ystafell ymolchi> | bafuni | banyodaki | di <kamar mandi>
in the <hall> | im <flur> | en el <pasillo> | в <коридоре> | yn y <cyntedd> | kwenye <ukumbi> | koridordaki | di <lorong>
in the <garage> | in der <garage> | en el <garaje> | в <гараже> | yn y <garej> | kwenye <gereji> | garajdaki | di <garasi>
in the <garden> | im <garten> | en el <jardín> | в <саду> | yn yr <ardd> | bustanini | bahçedeki | di <kebun>
in the <office> | im <büro> | en la <oficina> | в <кабинете> | yn y <swyddfa> | ofisini | ofisteki | di <kantor>
in the <basement> | im <keller> | en el <sótano> | в <подвале> | yn yr <islawr> | kwenye <chumba cha chini> | bodrumdaki | di <ruang bawah tanah>
in the <attic> | auf dem <dachboden> | en el <ático> | на <чердаке> | yn yr <atig> | darini | tavan arasındaki | di <loteng>
in the <dining room> | im <esszimmer> | en el <comedor> | в <столовой> | yn yr <ystafell fwyta> | kwenye <chumba cha chakula> | yemek odasındaki | di <ruang makan>
on the <balcony> | auf dem <balkon> | en el <balcón> | на <балконе> | ar y <balconi> | kwenye <roshani> | balkondaki | di <balkon>
in the <guest room> | im <gästezimmer> | en el <cuarto de invitados> | в <гостевой комнате> | yn yr <ystafell westeion> | kwenye <chumba cha wageni> | misafir odasındaki | di <kamar tamu>
""",  # noqa: E501
    "color_type": """
red | rot | rojo | красный | goch | nyekundu | kırmızı | merah
blue | blau | azul | синий | las | bluu | mavi | biru
green | grün | verde | зеленый | wyrdd | kijani | yeşil | hijau
yellow | gelb | amarillo | желтый | felyn | njano | sarı | kuning
white | weiß | blanco | белый | wyn | nyeupe | beyaz | putih
orange | orange | naranja | оранжевый | oren | machungwa | turuncu | jingga
purple | lila | morado | фиолетовый | borffor | zambarau | mor | ungu
pink | rosa | rosa | розовый | binc | waridi | pembe | merah muda
turquoise | türkis | turquesa | бирюзовый | wyrddlas | feruzi | turkuaz | toska
brown | braun | marrón | коричневый | frown | kahawia | kahverengi | cokelat
gold | gold | dorado | золотой | aur | dhahabu | altın sarısı | emas
silver | silber | plateado | серебристый | arian | fedha | gümüş | perak
grey | grau | gris | серый | lwyd | kijivu | gri | abu-abu
""",
    "music_genre": """
jazz | jazz | jazz | джаз | jazz | jazz | caz | jazz
rock | rock | rock | рок | roc | roki | rock | rock
blues | blues | blues | блюз | blues | blues | blues | blues
pop | pop | pop | поп | bop | pop | pop | pop
reggae | reggae | reggae | регги | reggae | rege | reggae | reggae
classical | klassik | clásica | классика | glasurol | klasiki | klasik | klasik
folk | volksmusik | folk | фолк | werin | kienyeji | halk | rakyat
techno | techno | tecno | техно | tecno | tekno | tekno | tekno
country | country | country | кантри | gwlad | country | country | country
disco | disko | disco | диско | disgo | disko | disko | disko
metal | metal | metal | метал | metel | metali | metal | metal
soul | soul | soul | соул | soul | soul | soul | soul
electronic | elektro | electrónica | электроника | electronig | elektroniki | elektronik | elektronik
opera | oper | de <ópera> | опера | opera | opera | opera | opera
hip hop | hip hop | hip hop | хип хоп | hip hop | hip hop | hip hop | hip hop
""",  # noqa: E501
    "artist_name": """
tin comet | = | = | тин комет | = | = | = | =
velvet harbor | = | = | вельвет харбор | = | = | = | =
luna marsh | = | = | луна марш | = | = | = | =
orla finch | = | = | орла финч | = | = | = | =
amber tram | = | = | эмбер трэм | = | = | = | =
kivo | = | = | киво | = | = | = | =
mira sol | = | = | мира сол | = | = | = | =
blue kettle | = | = | блю кеттл | = | = | = | =
dalo | = | = | дало | = | = | = | =
stone lantern | = | = | стоун лантерн | = | = | = | =
zuri moon | = | = | зури мун | = | = | = | =
quiet engines | = | = | квайет энджинс | = | = | = | =
pelu ranta | = | = | пелу ранта | = | = | = | =
north orchard | = | = | норт орчард | = | = | = | =
marlo | = | = | марло | = | = | = | =
winter ferns | = | = | винтер фернс | = | = | = | =
""",
    "weather_descriptor": """
rain | regen | lluvia | дождь | glaw | mvua | yağmur | hujan
snow | schnee | nieve | снег | eira | theluji | kar | salju
wind | wind | viento | ветер | gwynt | upepo | rüzgar | angin
fog | nebel | niebla | туман | niwl | ukungu | sis | kabut
hail | hagel | granizo | град | cenllysg | mvua ya mawe | dolu | hujan es
a <storm> | einen <sturm> | tormenta | шторм | storm | dhoruba | fırtına | badai
sunshine | sonnenschein | sol | солнце | heulwen | jua | güneş | sinar matahari
frost | frost | heladas | мороз | rhew | baridi kali | don | embun beku
clouds | wolken | nubes | облачность | cymylau | mawingu | bulut | awan
thunder | donner | truenos | гром | taranau | ngurumo | gök gürültüsü | guntur
ice | eis | hielo | лед | iâ | barafu | buz | es
a <heat wave> | eine <hitzewelle> | una <ola de calor> | жара | tywydd poeth | joto kali | sıcak dalgası | gelombang panas
drizzle | nieselregen | llovizna | морось | glaw mân | manyunyu | çisenti | gerimis
a <flood> | eine <überschwemmung> | inundaciones | наводнение | llifogydd | mafuriko | sel | banjir
""",  # noqa: E501
    "transport_type": """
by <train> | mit dem <zug> | en <tren> | на <поезде> | ar y <trên> | kwa <treni> | trenle | naik <kereta api>
by <bus> | mit dem <bus> | en <autobús> | на <автобусе> | ar y <bws> | kwa <basi> | otobüsle | naik <bus>
by <taxi> | mit dem <taxi> | en <taxi> | на <такси> | mewn <tacsi> | kwa <teksi> | taksiyle | naik <taksi>
by <plane> | mit dem <flugzeug> | en <avión> | на <самолете> | mewn <awyren> | kwa <ndege> | uçakla | naik <pesawat>
by <ferry> | mit der <fähre> | en <ferri> | на <пароме> | ar y <fferi> | kwa <feri> | feribotla | naik <feri>
by <tram> | mit der <straßenbahn> | en <tranvía> | на <трамвае> | ar y <tram> | kwa <tramu> | tramvayla | naik <trem>
by <subway> | mit der <u-bahn> | en <metro> | на <метро> | ar y <trên tanddaearol> | kwa <metro> | metroyla | naik <kereta bawah tanah>
by <bike> | mit dem <fahrrad> | en <bicicleta> | на <велосипеде> | ar <feic> | kwa <baiskeli> | bisikletle | naik <sepeda>
by <car> | mit dem <auto> | en <coche> | на <машине> | mewn <car> | kwa <gari> | arabayla | naik <mobil>
by <motorbike> | mit dem <motorrad> | en <moto> | на <мотоцикле> | ar <feic modur> | kwa <pikipiki> | motosikletle | naik <sepeda motor>
by <boat> | mit dem <boot> | en <barco> | на <лодке> | mewn <cwch> | kwa <boti> | tekneyle | naik <perahu>
by <minibus> | mit dem <kleinbus> | en <microbús> | на <маршрутке> | mewn <bws mini> | kwa <matatu> | minibüsle | naik <minibus>
by <helicopter> | mit dem <hubschrauber> | en <helicóptero> | на <вертолете> | mewn <hofrennydd> | kwa <helikopta> | helikopterle | naik <helikopter>
""",  # noqa: E501
}

PATTERNS: list[dict[str, str]] = [
    {
        "intent": "alarm_set",
        "scenario": "alarm",
        "en": "wake me up {time} {date}",
        "de": "wecke mich {date} {time}",
        "es": "despiértame {date} {time}",
        "ru": "разбуди меня {date} {time}",
        "cy": "deffrwch fi {date} {time}",
        "sw": "niamshe {date} {time}",
        "tr": "beni {date} {time} uyandır",
        "id": "bangunkan saya {date} {time}",
    },
    {
        "intent": "alarm_set",
        "scenario": "alarm",
        "en": "set an alarm {date} {time}",
        "de": "stelle einen wecker {date} {time}",
        "es": "pon una alarma {date} {time}",
        "ru": "поставь будильник {date} {time}",
        "cy": "gosodwch larwm {date} {time}",
        "sw": "weka kengele {date} {time}",
        "tr": "{date} {time} alarm kur",
        "id": "pasang alarm {date} {time}",
    },
    {
        "intent": "alarm_set",
        "scenario": "alarm",
        "en": "wake me up {time} with music by {artist_name}",
        "de": "wecke mich {time} mit musik von {artist_name}",
        "es": "despiértame {time} con música de {artist_name}",
        "ru": "разбуди меня {time} музыкой группы {artist_name}",
        "cy": "deffrwch fi {time} gyda cherddoriaeth gan {artist_name}",
        "sw": "niamshe {time} kwa muziki wa {artist_name}",
        "tr": "beni {time} {artist_name} müziğiyle uyandır",
        "id": "bangunkan saya {time} dengan musik dari {artist_name}",
    },
    {
        "intent": "alarm_set",
        "scenario": "alarm",
        "en": "i need to get up {date} {timeofday}",
        "de": "ich muss {date} {timeofday} aufstehen",
        "es": "tengo que levantarme {date} {timeofday}",
        "ru": "мне нужно встать {date} {timeofday}",
        "cy": "mae angen i mi godi {date} {timeofday}",
        "sw": "ninahitaji kuamka {date} {timeofday}",
        "tr": "{date} {timeofday} kalkmam gerekiyor",
        "id": "saya harus bangun {date} {timeofday}",
    },
    {
        "intent": "alarm_remove",
        "scenario": "alarm",
        "en": "cancel my alarm {date}",
        "de": "schalte meinen wecker {date} aus",
        "es": "cancela mi alarma {date}",
        "ru": "отмени мой будильник {date}",
        "cy": "canslwch fy larwm {date}",
        "sw": "futa kengele yangu {date}",
        "tr": "{date} alarmımı iptal et",
        "id": "batalkan alarm saya {date}",
    },
    {
        "intent": "alarm_query",
        "scenario": "alarm",
        "en": "do i have an alarm {date} {timeofday}",
        "de": "habe ich {date} {timeofday} einen wecker",
        "es": "tengo una alarma {date} {timeofday}",
        "ru": "есть ли у меня будильник {date} {timeofday}",
        "cy": "oes gen i larwm {date} {timeofday}",
        "sw": "je nina kengele {date} {timeofday}",
        "tr": "{date} {timeofday} alarmım var mı",
        "id": "apakah saya punya alarm {date} {timeofday}",
    },
    {
        "intent": "calendar_set",
        "scenario": "calendar",
        "en": "add {event_name} to my calendar {date} {time}",
        "de": "trage {event_name} {date} {time} in meinen kalender ein",
        "es": "añade {event_name} a mi calendario {date} {time}",
        "ru": "добавь {event_name} в мой календарь {date} {time}",
        "cy": "ychwanegwch {event_name} at fy nghalendr {date} {time}",
        "sw": "ongeza {event_name} kwenye kalenda yangu {date} {time}",
        "tr": "{date} {time} {event_name} takvimime ekle",
        "id": "tambahkan {event_name} ke kalender saya {date} {time}",
    },
    {
        "intent": "calendar_set",
        "scenario": "calendar",
        "en": "remind me about {event_name} {date}",
        "de": "erinnere mich {date} an {event_name}",
        "es": "recuérdame {event_name} {date}",
        "ru": "напомни мне про {event_name} {date}",
        "cy": "atgoffwch fi am {event_name} {date}",
        "sw": "nikumbushe kuhusu {event_name} {date}",
        "tr": "bana {date} {event_name} hatırlat",
        "id": "ingatkan saya tentang {event_name} {date}",
    },
    {
        "intent": "calendar_set",
        "scenario": "calendar",
        "en": "plan {event_name} {date} {timeofday}",
        "de": "plane {event_name} {date} {timeofday}",
        "es": "planifica {event_name} {date} {timeofday}",
        "ru": "запланируй {event_name} {date} {timeofday}",
        "cy": "trefnwch {event_name} {date} {timeofday}",
        "sw": "panga {event_name} {date} {timeofday}",
        "tr": "{date} {timeofday} {event_name} planla",
        "id": "jadwalkan {event_name} {date} {timeofday}",
    },
    {
        "intent": "calendar_set",
        "scenario": "calendar",
        "en": "remind {person} about {event_name} {timeofday}",
        "de": "erinnere {person} {timeofday} an {event_name}",
        "es": "recuérdale a {person} {event_name} {timeofday}",
        "ru": "напомни {person} про {event_name} {timeofday}",
        "cy": "atgoffwch {person} am {event_name} {timeofday}",
        "sw": "mkumbushe {person} kuhusu {event_name} {timeofday}",
        "tr": "{person} {timeofday} {event_name} hatırlat",
        "id": "ingatkan {person} tentang {event_name} {timeofday}",
    },
    {
        "intent": "calendar_remove",
        "scenario": "calendar",
        "en": "cancel {event_name} {date}",
        "de": "sage {event_name} {date} ab",
        "es": "cancela {event_name} {date}",
        "ru": "отмени {event_name} {date}",
        "cy": "canslwch {event_name} {date}",
        "sw": "futa {event_name} {date}",
        "tr": "{date} {event_name} iptal et",
        "id": "batalkan {event_name} {date}",
    },
    {
        "intent": "calendar_remove",
        "scenario": "calendar",
        "en": "delete {event_name} {time} from my calendar",
        "de": "lösche {event_name} {time} aus meinem kalender",
        "es": "borra {event_name} {time} de mi calendario",
        "ru": "удали {event_name} {time} из моего календаря",
        "cy": "dilëwch {event_name} {time} o fy nghalendr",
        "sw": "ondoa {event_name} {time} kwenye kalenda yangu",
        "tr": "{time} {event_name} takvimimden sil",
        "id": "hapus {event_name} {time} dari kalender saya",
    },
    {
        "intent": "calendar_query",
        "scenario": "calendar",
        "en": "show {event_name} on my calendar {date}",
        "de": "zeige {event_name} {date} in meinem kalender",
        "es": "muestra {event_name} en mi calendario {date}",
        "ru": "покажи {event_name} в моем календаре {date}",
        "cy": "dangoswch {event_name} ar fy nghalendr {date}",
        "sw": "onyesha {event_name} kwenye kalenda yangu {date}",
        "tr": "takvimimde {date} {event_name} göster",
        "id": "tunjukkan {event_name} di kalender saya {date}",
    },
    {
        "intent": "calendar_query",
        "scenario": "calendar",
        "en": "what do i have {date} {timeofday}",
        "de": "was habe ich {date} {timeofday} vor",
        "es": "qué tengo {date} {timeofday}",
        "ru": "что у меня {date} {timeofday}",
        "cy": "beth sydd gen i {date} {timeofday}",
        "sw": "nina nini {date} {timeofday}",
        "tr": "{date} {timeofday} neyim var",
        "id": "apa acara saya {date} {timeofday}",
    },
    {
        "intent": "weather_query",
        "scenario": "weather",
        "en": "will there be {weather_descriptor} {date} in {place_name}",
        "de": "gibt es {date} {weather_descriptor} in {place_name}",
        "es": "habrá {weather_descriptor} {date} en {place_name}",
        "ru": "будет ли {date} {weather_descriptor} в городе {place_name}",
        "cy": "a oes disgwyl {weather_descriptor} {date} yn ninas {place_name}",
        "sw": "je kutakuwa na {weather_descriptor} {date} mjini {place_name}",
        "tr": "{date} {place_name} şehrinde {weather_descriptor} var mı",
        "id": "apakah akan ada {weather_descriptor} {date} di {place_name}",
    },
    {
        "intent": "weather_query",
        "scenario": "weather",
        "en": "what is the weather like in {place_name} {date}",
        "de": "wie ist das wetter {date} in {place_name}",
        "es": "qué tiempo hace en {place_name} {date}",
        "ru": "какая погода в городе {place_name} {date}",
        "cy": "sut mae'r tywydd yn ninas {place_name} {date}",
        "sw": "hali ya hewa ikoje mjini {place_name} {date}",
        "tr": "{place_name} şehrinde {date} hava nasıl",
        "id": "bagaimana cuaca di {place_name} {date}",
    },
    {
        "intent": "weather_query",
        "scenario": "weather",
        "en": "tell me if there will be {weather_descriptor} {timeofday}",
        "de": "sag mir ob es {timeofday} {weather_descriptor} gibt",
        "es": "dime si habrá {weather_descriptor} {timeofday}",
        "ru": "скажи мне будет ли {timeofday} {weather_descriptor}",
        "cy": "dywedwch wrtha i os bydd {weather_descriptor} {timeofday}",
        "sw": "niambie kama kutakuwa na {weather_descriptor} {timeofday}",
        "tr": "{timeofday} {weather_descriptor} olacak mı söyle",
        "id": "beri tahu saya jika akan ada {weather_descriptor} {timeofday}",
    },
    {
        "intent": "weather_query",
        "scenario": "weather",
        "en": "do i need an umbrella in {place_name} {timeofday}",
        "de": "brauche ich {timeofday} einen schirm in {place_name}",
        "es": "necesito un paraguas en {place_name} {timeofday}",
        "ru": "нужен ли мне зонт в городе {place_name} {timeofday}",
        "cy": "oes angen ymbarél arna i yn ninas {place_name} {timeofday}",
        "sw": "je ninahitaji mwavuli mjini {place_name} {timeofday}",
        "tr": "{place_name} şehrinde {timeofday} şemsiyeye ihtiyacım var mı",
        "id": "apakah saya perlu payung di {place_name} {timeofday}",
    },
    {
        "intent": "datetime_query",
        "scenario": "datetime",
        "en": "what time is it in {place_name}",
        "de": "wie spät ist es in {place_name}",
        "es": "qué hora es en {place_name}",
        "ru": "который час в городе {place_name}",
        "cy": "faint o'r gloch yw hi yn ninas {place_name}",
        "sw": "ni saa ngapi mjini {place_name}",
        "tr": "{place_name} şehrinde saat kaç",
        "id": "jam berapa di {place_name}",
    },
    {
        "intent": "email_sendemail",
        "scenario": "email",
        "en": "send an email to {person} about {event_name}",
        "de": "schicke eine e-mail an {person} über {event_name}",
        "es": "envía un correo a {person} sobre {event_name}",
        "ru": "отправь письмо {person} про {event_name}",
        "cy": "anfonwch e-bost at {person} am {event_name}",
        "sw": "tuma barua pepe kwa {person} kuhusu {event_name}",
        "tr": "{person} {event_name} anlatan bir e-posta gönder",
        "id": "kirim email ke {person} tentang {event_name}",
    },
    {
        "intent": "email_sendemail",
        "scenario": "email",
        "en": "write an email to {relation} {date}",
        "de": "schreibe {date} eine e-mail an {relation}",
        "es": "escribe un correo a {relation} {date}",
        "ru": "напиши письмо {relation} {date}",
        "cy": "ysgrifennwch e-bost at {relation} {date}",
        "sw": "andika barua pepe kwa {relation} {date}",
        "tr": "{date} {relation} e-posta yaz",
        "id": "tulis email ke {relation} {date}",
    },
    {
        "intent": "message_send",
        "scenario": "message",
        "en": "tell {person} that i am coming {time}",
        "de": "sag {person} dass ich {time} komme",
        "es": "dile a {person} que llego {time}",
        "ru": "скажи {person} что я приду {time}",
        "cy": "dywedwch wrth {person} fy mod i'n dod {time}",
        "sw": "mwambie {person} kwamba ninakuja {time}",
        "tr": "{person} {time} geleceğimi söyle",
        "id": "beri tahu {person} bahwa saya datang {time}",
    },
    {
        "intent": "message_send",
        "scenario": "message",
        "en": "write to {relation} that i am coming {date}",
        "de": "schreibe an {relation} dass ich {date} komme",
        "es": "escribe a {relation} que llego {date}",
        "ru": "напиши {relation} что я приду {date}",
        "cy": "ysgrifennwch at {relation} fy mod i'n dod {date}",
        "sw": "mwandikie {relation} kwamba ninakuja {date}",
        "tr": "{relation} {date} geleceğimi yaz",
        "id": "tulis ke {relation} bahwa saya datang {date}",
    },
    {
        "intent": "message_send",
        "scenario": "message",
        "en": "send a message to {relation} {timeofday}",
        "de": "schicke {timeofday} eine nachricht an {relation}",
        "es": "envía un mensaje a {relation} {timeofday}",
        "ru": "отправь сообщение {relation} {timeofday}",
        "cy": "anfonwch neges at {relation} {timeofday}",
        "sw": "tuma ujumbe kwa {relation} {timeofday}",
        "tr": "{relation} {timeofday} mesaj gönder",
        "id": "kirim pesan ke {relation} {timeofday}",
    },
    {
        "intent": "call_make",
        "scenario": "call",
        "en": "call {person} {date} {time}",
        "de": "rufe {person} {date} {time} an",
        "es": "llama a {person} {date} {time}",
        "ru": "позвони {person} {date} {time}",
        "cy": "ffoniwch {person} {date} {time}",
        "sw": "mpigie {person} simu {date} {time}",
        "tr": "{date} {time} {person} telefon et",
        "id": "telepon {person} {date} {time}",
    },
    {
        "intent": "call_make",
        "scenario": "call",
        "en": "call {relation} {timeofday}",
        "de": "rufe {relation} {timeofday} an",
        "es": "llama a {relation} {timeofday}",
        "ru": "позвони {relation} {timeofday}",
        "cy": "ffoniwch {relation} {timeofday}",
        "sw": "mpigie {relation} simu {timeofday}",
        "tr": "{timeofday} {relation} telefon et",
        "id": "telepon {relation} {timeofday}",
    },
    {
        "intent": "lists_createoradd",
        "scenario": "lists",
        "en": "i want to add {food_type} to the {list_name} list",
        "de": "ich möchte {food_type} auf die {list_name} setzen",
        "es": "quiero añadir {food_type} a la lista de {list_name}",
        "ru": "я хочу добавить {food_type} в список {list_name}",
        "cy": "dw i eisiau ychwanegu {food_type} at y rhestr {list_name}",
        "sw": "nataka kuongeza {food_type} kwenye orodha ya {list_name}",
        "tr": "{list_name} listesine {food_type} eklemek istiyorum",
        "id": "saya ingin menambahkan {food_type} ke daftar {list_name}",
    },
    {
        "intent": "lists_createoradd",
        "scenario": "lists",
        "en": "create the {list_name} list {date}",
        "de": "erstelle {date} die {list_name}",
        "es": "crea la lista de {list_name} {date}",
        "ru": "создай список {list_name} {date}",
        "cy": "crëwch y rhestr {list_name} {date}",
        "sw": "tengeneza orodha ya {list_name} {date}",
        "tr": "{date} {list_name} listesini oluştur",
        "id": "buat daftar {list_name} {date}",
    },
    {
        "intent": "lists_query",
        "scenario": "lists",
        "en": "show me the {list_name} list",
        "de": "zeige mir die {list_name}",
        "es": "muéstrame la lista de {list_name}",
        "ru": "покажи мне список {list_name}",
        "cy": "dangoswch y rhestr {list_name} i mi",
        "sw": "nionyeshe orodha ya {list_name}",
        "tr": "bana {list_name} listesini göster",
        "id": "tunjukkan daftar {list_name} kepada saya",
    },
    {
        "intent": "lists_query",
        "scenario": "lists",
        "en": "read the {list_name} list to {person}",
        "de": "lies {person} die {list_name} vor",
        "es": "lee la lista de {list_name} a {person}",
        "ru": "прочитай {person} список {list_name}",
        "cy": "darllenwch y rhestr {list_name} i {person}",
        "sw": "msomee {person} orodha ya {list_name}",
        "tr": "{list_name} listesini {person} oku",
        "id": "bacakan daftar {list_name} kepada {person}",
    },
    {
        "intent": "lists_query",
        "scenario": "lists",
        "en": "send the {list_name} list to {relation} {date}",
        "de": "schicke die {list_name} {date} an {relation}",
        "es": "envía la lista de {list_name} a {relation} {date}",
        "ru": "отправь список {list_name} {relation} {date}",
        "cy": "anfonwch y rhestr {list_name} at {relation} {date}",
        "sw": "tuma orodha ya {list_name} kwa {relation} {date}",
        "tr": "{list_name} listesini {date} {relation} gönder",
        "id": "kirim daftar {list_name} ke {relation} {date}",
    },
    {
        "intent": "lists_remove",
        "scenario": "lists",
        "en": "delete the {list_name} list",
        "de": "lösche die {list_name}",
        "es": "borra la lista de {list_name}",
        "ru": "удали список {list_name}",
        "cy": "dilëwch y rhestr {list_name}",
        "sw": "futa orodha ya {list_name}",
        "tr": "{list_name} listesini sil",
        "id": "hapus daftar {list_name}",
    },
    {
        "intent": "lists_remove",
        "scenario": "lists",
        "en": "i want to take {food_type} off the {list_name} list",
        "de": "ich möchte {food_type} von der {list_name} nehmen",
        "es": "quiero quitar {food_type} de la lista de {list_name}",
        "ru": "я хочу убрать {food_type} из списка {list_name}",
        "cy": "dw i eisiau tynnu {food_type} oddi ar y rhestr {list_name}",
        "sw": "nataka kuondoa {food_type} kwenye orodha ya {list_name}",
        "tr": "{list_name} listesinden {food_type} çıkarmak istiyorum",
        "id": "saya ingin menghapus {food_type} dari daftar {list_name}",
    },
    {
        "intent": "takeaway_order",
        "scenario": "takeaway",
        "en": "i want to order {food_type} {date} {time}",
        "de": "ich möchte {date} {time} {food_type} bestellen",
        "es": "quiero pedir {food_type} {date} {time}",
        "ru": "я хочу заказать {food_type} {date} {time}",
        "cy": "dw i eisiau archebu {food_type} {date} {time}",
        "sw": "nataka kuagiza {food_type} {date} {time}",
        "tr": "{date} {time} {food_type} sipariş etmek istiyorum",
        "id": "saya ingin memesan {food_type} {date} {time}",
    },
    {
        "intent": "takeaway_order",
        "scenario": "takeaway",
        "en": "can you order {food_type} for {relation} {timeofday}",
        "de": "kannst du {timeofday} {food_type} für {relation} bestellen",
        "es": "puedes pedir {food_type} para {relation} {timeofday}",
        "ru": "можешь заказать {relation} {food_type} {timeofday}",
        "cy": "allwch chi archebu {food_type} i {relation} {timeofday}",
        "sw": "unaweza kuagiza {food_type} kwa ajili ya {relation} {timeofday}",
        "tr": "{relation} {timeofday} {food_type} sipariş eder misin",
        "id": "bisakah kamu memesan {food_type} untuk {relation} {timeofday}",
    },
    {
        "intent": "takeaway_query",
        "scenario": "takeaway",
        "en": "where can i buy {food_type} in {place_name}",
        "de": "wo kann ich {food_type} in {place_name} kaufen",
        "es": "dónde puedo comprar {food_type} en {place_name}",
        "ru": "где можно купить {food_type} в городе {place_name}",
        "cy": "ble alla i brynu {food_type} yn ninas {place_name}",
        "sw": "ninaweza kununua {food_type} wapi mjini {place_name}",
        "tr": "{place_name} şehrinde nereden {food_type} alabilirim",
        "id": "di mana saya bisa membeli {food_type} di {place_name}",
    },
    {
        "intent": "cooking_recipe",
        "scenario": "cooking",
        "en": "how do i make {food_type}",
        "de": "wie mache ich {food_type}",
        "es": "cómo hago {food_type}",
        "ru": "как приготовить {food_type}",
        "cy": "sut mae gwneud {food_type}",
        "sw": "ninawezaje kutengeneza {food_type}",
        "tr": "{food_type} nasıl yapılır",
        "id": "bagaimana cara membuat {food_type}",
    },
    {
        "intent": "cooking_recipe",
        "scenario": "cooking",
        "en": "i want to cook {food_type} for {person} {timeofday}",
        "de": "ich möchte {timeofday} {food_type} für {person} kochen",
        "es": "quiero cocinar {food_type} para {person} {timeofday}",
        "ru": "я хочу приготовить {person} {food_type} {timeofday}",
        "cy": "dw i eisiau coginio {food_type} i {person} {timeofday}",
        "sw": "nataka kupika {food_type} kwa ajili ya {person} {timeofday}",
        "tr": "{person} {timeofday} {food_type} pişirmek istiyorum",
        "id": "saya ingin memasak {food_type} untuk {person} {timeofday}",
    },
    {
        "intent": "iot_wemo_on",
        "scenario": "iot",
        "en": "turn on {device_type} {house_place}",
        "de": "schalte {device_type} {house_place} ein",
        "es": "enciende {device_type} {house_place}",
        "ru": "включи {device_type} {house_place}",
        "cy": "trowch {device_type} {house_place} ymlaen",
        "sw": "washa {device_type} {house_place}",
        "tr": "{house_place} {device_type} aç",
        "id": "nyalakan {device_type} {house_place}",
    },
    {
        "intent": "iot_wemo_on",
        "scenario": "iot",
        "en": "start {device_type} {date} {time}",
        "de": "starte {device_type} {date} {time}",
        "es": "pon en marcha {device_type} {date} {time}",
        "ru": "запусти {device_type} {date} {time}",
        "cy": "dechreuwch {device_type} {date} {time}",
        "sw": "anzisha {device_type} {date} {time}",
        "tr": "{date} {time} {device_type} çalıştır",
        "id": "jalankan {device_type} {date} {time}",
    },
    {
        "intent": "iot_wemo_off",
        "scenario": "iot",
        "en": "turn off {device_type} {house_place}",
        "de": "schalte {device_type} {house_place} aus",
        "es": "apaga {device_type} {house_place}",
        "ru": "выключи {device_type} {house_place}",
        "cy": "diffoddwch {device_type} {house_place}",
        "sw": "zima {device_type} {house_place}",
        "tr": "{house_place} {device_type} kapat",
        "id": "matikan {device_type} {house_place}",
    },
    {
        "intent": "iot_wemo_off",
        "scenario": "iot",
        "en": "can you turn off {device_type} {timeofday}",
        "de": "kannst du {device_type} {timeofday} ausschalten",
        "es": "puedes apagar {device_type} {timeofday}",
        "ru": "можешь выключить {device_type} {timeofday}",
        "cy": "allwch chi ddiffodd {device_type} {timeofday}",
        "sw": "unaweza kuzima {device_type} {timeofday}",
        "tr": "{timeofday} {device_type} kapatır mısın",
        "id": "bisakah kamu mematikan {device_type} {timeofday}",
    },
    {
        "intent": "iot_cleaning",
        "scenario": "iot",
        "en": "clean the floor {house_place} {timeofday}",
        "de": "putze den boden {house_place} {timeofday}",
        "es": "limpia el suelo {house_place} {timeofday}",
        "ru": "помой пол {house_place} {timeofday}",
        "cy": "glanhewch y llawr {house_place} {timeofday}",
        "sw": "safisha sakafu {house_place} {timeofday}",
        "tr": "{timeofday} {house_place} zemini temizle",
        "id": "bersihkan lantai {house_place} {timeofday}",
    },
    {
        "intent": "iot_hue_lightchange",
        "scenario": "iot",
        "en": "make the light {house_place} {color_type}",
        "de": "mach das licht {house_place} {color_type}",
        "es": "pon la luz {house_place} en {color_type}",
        "ru": "сделай {color_type} свет {house_place}",
        "cy": "gwnewch y golau {house_place} yn {color_type}",
        "sw": "badilisha rangi ya taa {house_place} iwe {color_type}",
        "tr": "{house_place} ışığı {color_type} yap",
        "id": "ubah lampu {house_place} menjadi {color_type}",
    },
    {
        "intent": "iot_hue_lightchange",
        "scenario": "iot",
        "en": "i want the light {house_place} in {color_type} {timeofday}",
        "de": "ich möchte das licht {house_place} {timeofday} in {color_type}",
        "es": "quiero la luz {house_place} en {color_type} {timeofday}",
        "ru": "я хочу {color_type} свет {house_place} {timeofday}",
        "cy": "dw i eisiau y golau {house_place} yn {color_type} {timeofday}",
        "sw": "nataka taa {house_place} iwe rangi ya {color_type} {timeofday}",
        "tr": "{timeofday} {house_place} ışığı {color_type} istiyorum",
        "id": "saya ingin lampu {house_place} menjadi {color_type} {timeofday}",
    },
    {
        "intent": "iot_hue_lightoff",
        "scenario": "iot",
        "en": "turn off the light {house_place} {time}",
        "de": "schalte das licht {house_place} {time} aus",
        "es": "apaga la luz {house_place} {time}",
        "ru": "выключи свет {house_place} {time}",
        "cy": "diffoddwch y golau {house_place} {time}",
        "sw": "zima taa {house_place} {time}",
        "tr": "{time} {house_place} ışığı kapat",
        "id": "matikan lampu {house_place} {time}",
    },
    {
        "intent": "iot_temperature",
        "scenario": "iot",
        "en": "what is the temperature {house_place} {timeofday}",
        "de": "wie hoch ist die temperatur {house_place} {timeofday}",
        "es": "qué temperatura hay {house_place} {timeofday}",
        "ru": "какая температура {house_place} {timeofday}",
        "cy": "beth yw'r tymheredd {house_place} {timeofday}",
        "sw": "joto ni kiasi gani {house_place} {timeofday}",
        "tr": "{timeofday} {house_place} sıcaklık kaç derece",
        "id": "berapa suhu {house_place} {timeofday}",
    },
    {
        "intent": "play_music",
        "scenario": "play",
        "en": "play {music_genre} music on the speaker {house_place}",
        "de": "spiele {music_genre} auf dem lautsprecher {house_place}",
        "es": "pon música {music_genre} en el altavoz {house_place}",
        "ru": "включи музыку в стиле {music_genre} на колонке {house_place}",
        "cy": "chwaraewch gerddoriaeth {music_genre} ar yr uchelseinydd {house_place}",
        "sw": "cheza muziki wa {music_genre} kwenye spika {house_place}",
        "tr": "{house_place} hoparlörde {music_genre} müziği çal",
        "id": "putar musik {music_genre} di pengeras suara {house_place}",
    },
    {
        "intent": "play_music",
        "scenario": "play",
        "en": "play songs by {artist_name} {timeofday}",
        "de": "spiele {timeofday} lieder von {artist_name}",
        "es": "pon canciones de {artist_name} {timeofday}",
        "ru": "включи песни группы {artist_name} {timeofday}",
        "cy": "chwaraewch ganeuon gan {artist_name} {timeofday}",
        "sw": "cheza nyimbo za {artist_name} {timeofday}",
        "tr": "{timeofday} {artist_name} şarkılarını çal",
        "id": "putar lagu dari {artist_name} {timeofday}",
    },
    {
        "intent": "play_music",
        "scenario": "play",
        "en": "i want to listen to {music_genre} music {timeofday}",
        "de": "ich möchte {timeofday} {music_genre} hören",
        "es": "quiero escuchar música {music_genre} {timeofday}",
        "ru": "я хочу послушать музыку в стиле {music_genre} {timeofday}",
        "cy": "dw i eisiau gwrando ar gerddoriaeth {music_genre} {timeofday}",
        "sw": "nataka kusikiliza muziki wa {music_genre} {timeofday}",
        "tr": "{timeofday} {music_genre} müziği dinlemek istiyorum",
        "id": "saya ingin mendengarkan musik {music_genre} {timeofday}",
    },
    {
        "intent": "music_query",
        "scenario": "music",
        "en": "when does {artist_name} play in {place_name}",
        "de": "wann spielt {artist_name} in {place_name}",
        "es": "cuándo toca {artist_name} en {place_name}",
        "ru": "когда группа {artist_name} играет в городе {place_name}",
        "cy": "pryd mae {artist_name} yn chwarae yn ninas {place_name}",
        "sw": "{artist_name} wanacheza lini mjini {place_name}",
        "tr": "{artist_name} {place_name} şehrinde ne zaman çalıyor",
        "id": "kapan {artist_name} bermain di {place_name}",
    },
    {
        "intent": "music_likeness",
        "scenario": "music",
        "en": "i like {music_genre} music and the band {artist_name}",
        "de": "ich mag {music_genre} und die band {artist_name}",
        "es": "me gusta la música {music_genre} y el grupo {artist_name}",
        "ru": "мне нравится музыка в стиле {music_genre} и группа {artist_name}",
        "cy": "dw i'n hoffi cerddoriaeth {music_genre} a'r band {artist_name}",
        "sw": "napenda muziki wa {music_genre} na bendi ya {artist_name}",
        "tr": "{music_genre} müziğini ve {artist_name} grubunu seviyorum",
        "id": "saya suka musik {music_genre} dan grup {artist_name}",
    },
    {
        "intent": "transport_query",
        "scenario": "transport",
        "en": "how do i get to {place_name} {transport_type}",
        "de": "wie komme ich {transport_type} nach {place_name}",
        "es": "cómo llego a {place_name} {transport_type}",
        "ru": "как добраться до города {place_name} {transport_type}",
        "cy": "sut mae mynd i ddinas {place_name} {transport_type}",
        "sw": "nitafikaje mji wa {place_name} {transport_type}",
        "tr": "{place_name} şehrine {transport_type} nasıl giderim",
        "id": "bagaimana cara pergi ke {place_name} {transport_type}",
    },
    {
        "intent": "transport_query",
        "scenario": "transport",
        "en": "how long does it take to get to {place_name} {transport_type} {date}",
        "de": "wie lange dauert es {date} {transport_type} nach {place_name}",
        "es": "cuánto se tarda en llegar a {place_name} {transport_type} {date}",
        "ru": "сколько времени занимает дорога до города {place_name} {transport_type} {date}",
        "cy": "faint o amser mae'n ei gymryd i ddinas {place_name} {transport_type} {date}",
        "sw": "inachukua muda gani kufika {place_name} {transport_type} {date}",
        "tr": "{date} {place_name} şehrine {transport_type} gitmek ne kadar sürer",
        "id": "berapa lama pergi ke {place_name} {transport_type} {date}",
    },
    {
        "intent": "transport_ticket",
        "scenario": "transport",
        "en": "book a trip to {place_name} {transport_type} {date}",
        "de": "buche {date} eine reise {transport_type} nach {place_name}",
        "es": "reserva un viaje a {place_name} {transport_type} {date}",
        "ru": "забронируй поездку в город {place_name} {transport_type} {date}",
        "cy": "trefnwch daith i ddinas {place_name} {transport_type} {date}",
        "sw": "panga safari ya kwenda {place_name} {transport_type} {date}",
        "tr": "{date} {place_name} şehrine {transport_type} yolculuk ayarla",
        "id": "pesan perjalanan ke {place_name} {transport_type} {date}",
    },
    {
        "intent": "transport_ticket",
        "scenario": "transport",
        "en": "i want to travel to {place_name} {transport_type} {timeofday}",
        "de": "ich möchte {timeofday} {transport_type} nach {place_name} reisen",
        "es": "quiero viajar a {place_name} {transport_type} {timeofday}",
        "ru": "я хочу поехать в город {place_name} {transport_type} {timeofday}",
        "cy": "dw i eisiau teithio i ddinas {place_name} {transport_type} {timeofday}",
        "sw": "nataka kusafiri kwenda {place_name} {transport_type} {timeofday}",
        "tr": "{timeofday} {place_name} şehrine {transport_type} gitmek istiyorum",
        "id": "saya ingin pergi ke {place_name} {transport_type} {timeofday}",
    },
    {
        "intent": "transport_traffic",
        "scenario": "transport",
        "en": "how is the traffic in {place_name} {timeofday}",
        "de": "wie ist der verkehr {timeofday} in {place_name}",
        "es": "cómo está el tráfico en {place_name} {timeofday}",
        "ru": "какие пробки в городе {place_name} {timeofday}",
        "cy": "sut mae'r traffig yn ninas {place_name} {timeofday}",
        "sw": "msongamano ukoje mjini {place_name} {timeofday}",
        "tr": "{place_name} şehrinde {timeofday} trafik nasıl",
        "id": "bagaimana lalu lintas di {place_name} {timeofday}",
    },
    {
        "intent": "recommendation_events",
        "scenario": "recommendation",
        "en": "what is happening in {place_name} {date}",
        "de": "was ist {date} in {place_name} los",
        "es": "qué pasa en {place_name} {date}",
        "ru": "что происходит в городе {place_name} {date}",
        "cy": "beth sy'n digwydd yn ninas {place_name} {date}",
        "sw": "nini kinatokea mjini {place_name} {date}",
        "tr": "{date} {place_name} şehrinde neler oluyor",
        "id": "apa yang terjadi di {place_name} {date}",
    },
    {
        "intent": "general_joke",
        "scenario": "general",
        "split": "train",
        "en": "tell me a joke",
        "de": "erzähl mir einen witz",
        "es": "cuéntame un chiste",
        "ru": "расскажи мне анекдот",
        "cy": "dywedwch jôc wrtha i",
        "sw": "niambie kichekesho",
        "tr": "bana bir fıkra anlat",
        "id": "ceritakan lelucon",
    },
    {
        "intent": "general_repeat",
        "scenario": "general",
        "split": "train",
        "en": "repeat that",
        "de": "wiederhole das",
        "es": "repite eso",
        "ru": "повтори это",
        "cy": "ailadroddwch hynny",
        "sw": "rudia hiyo",
        "tr": "bunu tekrarla",
        "id": "ulangi itu",
    },
    {
        "intent": "music_stop",
        "scenario": "music",
        "split": "train",
        "en": "stop the music",
        "de": "stoppe die musik",
        "es": "para la música",
        "ru": "останови музыку",
        "cy": "stopiwch y gerddoriaeth",
        "sw": "simamisha muziki",
        "tr": "müzik çalmayı durdur",
        "id": "hentikan musik",
    },
    {
        "intent": "datetime_query",
        "scenario": "datetime",
        "split": "train",
        "en": "what time is it",
        "de": "wie spät ist es",
        "es": "qué hora es",
        "ru": "который час",
        "cy": "faint o'r gloch yw hi",
        "sw": "ni saa ngapi",
        "tr": "saat kaç",
        "id": "jam berapa",
    },
    {
        "intent": "calendar_query",
        "scenario": "calendar",
        "split": "dev",
        "en": "what do i have on my calendar",
        "de": "was habe ich in meinem kalender",
        "es": "qué tengo en mi calendario",
        "ru": "что у меня в моем календаре",
        "cy": "beth sydd gen i ar fy nghalendr",
        "sw": "nina nini kwenye kalenda yangu",
        "tr": "takvimimde neyim var",
        "id": "apa acara saya di kalender saya",
    },
    {
        "intent": "play_music",
        "scenario": "play",
        "split": "dev",
        "en": "play music",
        "de": "spiele musik",
        "es": "pon música",
        "ru": "включи музыку",
        "cy": "chwaraewch gerddoriaeth",
        "sw": "cheza muziki",
        "tr": "müzik çal",
        "id": "putar musik",
    },
    {
        "intent": "iot_hue_lightoff",
        "scenario": "iot",
        "split": "test",
        "en": "turn off the light",
        "de": "schalte das licht aus",
        "es": "apaga la luz",
        "ru": "выключи свет",
        "cy": "diffoddwch y golau",
        "sw": "zima taa",
        "tr": "ışığı kapat",
        "id": "matikan lampu",
    },
    {
        "intent": "weather_query",
        "scenario": "weather",
        "split": "test",
        "en": "what is the weather like",
        "de": "wie ist das wetter",
        "es": "qué tiempo hace",
        "ru": "какая погода",
        "cy": "sut mae'r tywydd",
        "sw": "hali ya hewa ikoje",
        "tr": "hava nasıl",
        "id": "bagaimana cuaca",
    },
    {
        "intent": "alarm_query",
        "scenario": "alarm",
        "split": "test",
        "en": "do i have an alarm",
        "de": "habe ich einen wecker",
        "es": "tengo una alarma",
        "ru": "есть ли у меня будильник",
        "cy": "oes gen i larwm",
        "sw": "je nina kengele",
        "tr": "alarmım var mı",
        "id": "apakah saya punya alarm",
    },
]
